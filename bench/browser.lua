-- Heads like a browser's: ten fields, SIZE bytes, and a cookie that differs in every request, so
-- that no server can answer from a table of heads that it has seen.
local SIZE = 600
local before, after
local n = 0

function init(args)
  before = "GET " .. wrk.path .. " HTTP/1.1\r\n"
    .. "Host: " .. wrk.host .. ":" .. wrk.port .. "\r\n"
    .. "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n"
    .. "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    .. "Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n"
    .. "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    .. "Connection: keep-alive\r\n"
    .. "Referer: http://" .. wrk.host .. ":" .. wrk.port .. "/index.html\r\n"
    .. "Sec-Fetch-Site: same-origin\r\n"
    .. "Sec-Fetch-Mode: no-cors\r\n"
    .. "Cookie: n="
  after = "; session="
  -- eight digits of the counter stand between the two
  after = after .. string.rep("x", SIZE - #before - 8 - #after - 4) .. "\r\n\r\n"
end

function request()
  n = n + 1
  return before .. string.format("%08d", n) .. after
end
