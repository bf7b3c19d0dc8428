"""HTTP as all parts know it: requests, responses, header fields."""
