"""What is to be served: the settings worked out into listeners, sites, routes and pools."""
