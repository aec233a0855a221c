"""How objects leave the process. Functions and classes go by the source that made them."""
