"""What the end-to-end tests share."""

from __future__ import annotations

import os
from pathlib import Path

KERNEL = os.environ.get("SAVEPOINT_TEST_KERNEL", "savepoint")

PATIENCE = 60.0
"""Seconds after which something that should have happened counts as a failure."""

DEMO = Path(__file__).parents[2] / "docs" / "demo"
