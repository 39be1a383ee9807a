"""Programs that show how Tether is used and extended; each is run by `python -m examples.NAME`."""
