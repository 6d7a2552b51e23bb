"""Webhook path, step 2 of 2: the sender."""
