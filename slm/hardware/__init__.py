"""What there is to compute with: a device, its number types, its memory, other processes."""

from slm.hardware.device import pick_device
from slm.hardware.memory import keep_freed_memory, rows_at_once
from slm.hardware.precision import pick_precision

__all__ = [
    "keep_freed_memory",
    "pick_device",
    "pick_precision",
    "rows_at_once",
]
