"""Networks, methods and the loop that trains them."""
