"""
kubeway: a Kubernetes service proxy.

It turns Services and EndpointSlices into what one node's kernel must hold, and
keeps the kernel holding it. What the kernel must hold is a value, a program;
a mode is a pure function to programs; a plan is the difference between two.
This file knows the version and nothing else.
"""

__version__ = "0.1.0"
