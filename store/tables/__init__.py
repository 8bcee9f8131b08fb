"""The tables of the store, one module per kind; read them through :mod:`store.schema`."""
