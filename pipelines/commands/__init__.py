"""The commands of ``vmoer``, one module per area; importing a module registers its commands on the root."""
