"""Suites: the published tables that can be measured with one command. Every file here is found automatically."""
