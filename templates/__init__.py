"""The nested stacks, as troposphere programs: each module's `build(config)` returns one template."""
