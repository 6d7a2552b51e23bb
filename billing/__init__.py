"""The core: pure rules (domain), the machine room (runtime), and one function per use case (services)."""
