"""Names of certificates as text, held against another implementation of RFC 4514."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from halfsync.pump.tls.facts import in_text
from halfsync.tls.facts import ClientCertificate, TLSFacts, encode, variables

LONG_NAMES = {
    NameOID.COUNTRY_NAME: "countryName",
    NameOID.COMMON_NAME: "commonName",
    NameOID.ORGANIZATION_NAME: "organizationName",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "organizationalUnitName",
    NameOID.LOCALITY_NAME: "localityName",
    NameOID.STATE_OR_PROVINCE_NAME: "stateOrProvinceName",
    NameOID.STREET_ADDRESS: "streetAddress",
    NameOID.USER_ID: "userId",
    NameOID.DOMAIN_COMPONENT: "domainComponent",
}


@pytest.mark.parametrize(
    "parts",
    [
        [
            [(NameOID.COUNTRY_NAME, "DE")],
            [(NameOID.ORGANIZATION_NAME, "Example")],
            [(NameOID.COMMON_NAME, "Ann")],
        ],
        [[(NameOID.COMMON_NAME, ' a, b+c "d" \\ <e>; '), (NameOID.USER_ID, "#1")]],
        [[(NameOID.COMMON_NAME, "# a#b")], [(NameOID.LOCALITY_NAME, "Köln")]],
        [[(NameOID.COMMON_NAME, "a\0b")]],
        [[(NameOID.DOMAIN_COMPONENT, "example")], [(NameOID.DOMAIN_COMPONENT, "test")]],
        [[(NameOID.STATE_OR_PROVINCE_NAME, "a=b")], [(NameOID.STREET_ADDRESS, "Main Street 1")]],
    ],
)
def test_names(parts):
    known = x509.Name(
        x509.RelativeDistinguishedName([x509.NameAttribute(oid, value) for oid, value in part])
        for part in parts
    )
    found = in_text([[(LONG_NAMES[oid], value) for oid, value in part] for part in parts])
    plain = [one.replace("\\=", "=").replace("street=", "STREET=") for one in (found, known.rfc4514_string())]
    assert plain[0] == plain[1]


def test_names_in_other_scripts_are_bytes_as_latin_1():
    """PEP 3333."""
    ann = ClientCertificate(b"der", "CN=Ännchen", "CN=Authority", "1F", "then", "later", ("Ännchen",), (), ())
    found = variables(encode(TLSFacts("TLSv1.3", "TLS_AES_128_GCM_SHA256", 0x1301, 128, "a", ann)))
    assert found["SSL_CLIENT_S_DN"].encode("latin-1").decode() == "CN=Ännchen"
