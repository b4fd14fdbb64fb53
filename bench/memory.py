"""What this process holds, in megabytes, from /proc (Linux)."""


def resident(field: str = "VmRSS") -> float:
    """Memory now (VmRSS), or at its peak (VmHWM) since the start or `forget_peak`."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) * 1024 / 1e6


def forget_peak() -> None:
    """Let VmHWM start again from what is held now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
