"""
A small network on one machine: a node, its pods, another node, the outside.

Every host is a process with a network namespace of its own. No namespace has a
name and no file is left behind: when the process that made the lab ends, in
whatever way, the hosts see their control sockets close and end too, and the
kernel takes namespaces and links with the last of them. So labs run side by side.

It knows sockets, `ip` and namespaces. Of kubeway it knows how to start it; it
needs to know nothing of Services, programs or planes.
"""
