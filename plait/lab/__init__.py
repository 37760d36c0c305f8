"""Hosts out of namespaces, engines that run in them, and the soak that lives there."""
