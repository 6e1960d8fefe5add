"""Files that survive a power cut: paths, atomic writes, contracts between stages, locks."""
