"""Files that come from a local folder, and go to one."""
