"""What can be done with a service, whoever asks for it: the REST API, the pages and tests call the same functions.

They take and return typed objects, raise typed errors, and know of no HTTP.
"""
