"""How it is measured, recorded, drawn and compared."""
