"""Plans with their prices as files: read and checked, compared with the catalog, made, and written."""
