"""Names of parts, the plug-ins that supply them, and packages that are optional."""
