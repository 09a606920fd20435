"""Methods that look for good candidates, and the spaces they look in."""
