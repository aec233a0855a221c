"""How objects leave the process. So far: functions and classes by the source that made them."""
