"""A device: keeps a copy of its user's box in a local folder."""

from client.device import Device, Synced
from client.errors import BadCall, Busy, Damaged, DeviceError, NoBox, NoRoom, Refused, Unavailable

__all__ = [
    "BadCall",
    "Busy",
    "Damaged",
    "Device",
    "DeviceError",
    "NoBox",
    "NoRoom",
    "Refused",
    "Synced",
    "Unavailable",
]
