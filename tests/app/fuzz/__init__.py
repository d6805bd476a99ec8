"""Requests that nobody would write: none is a defect, and afterwards the service is as well as before."""
