"""A simulated energy site, served over real Modbus TCP, with faults that can be switched on."""
