"""Shared by the tests: stores, servers, clients, tables, and the list of packages."""
