"""What runs beside the front end: runs without a keyboard and ``jupyter savepoint``."""
