"""A catalog in parts, one for each of several machines; each has its hosts, so that no two ask the same one."""
