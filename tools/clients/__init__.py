"""Contract toolchain: the clients in other languages, whose generators are programs of their own toolchains."""
