"""The rim's servicers, one module per service of the contract: convert, call one use case, convert back."""
