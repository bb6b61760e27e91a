"""The names in a staging directory that the daemon and its unpacking child share, and how both mount."""

STAGING = "staging"  # below the store's root
ROOT = "fs"  # the layer's content
REST = "rest"  # the archive from the first entry on whose place depends on the layers below
WHITEOUTS = "whiteouts"  # paths of the whiteouts that were made, each ended by NUL
BLOB = "blob"  # the layer as it came, if it is to be kept; it stays
RECIPE = "recipe"  # from which the layer's tar can be rebuilt (wire/tar_recipe.py); it stays
WORK, MERGED = "work", "merged"  # for the overlay that `rest` is written to

# What a later kernel turns on by default must not change what a layer means, nor may a layer redirect
# anything.
OVERLAY_OPTIONS = "index=off,metacopy=off,redirect_dir=nofollow"
