"""`plait capture`: inner and outer packets of an interface in one file, for Wireshark (docs/capture.md)."""
