"""What is said of new rows, and how well it fits what came."""
