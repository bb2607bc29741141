"""hubd: the hub that edges sync with."""
