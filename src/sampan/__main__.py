"""`python -m sampan` is the `sampan` command. The daemon is its own entry point, `sampan.daemon:main`."""

from sampan.cli.main import main

if __name__ == "__main__":
    main()
