"""What the house can do on this machine: `python -m bench`. Each figure has a limit from the same run."""
