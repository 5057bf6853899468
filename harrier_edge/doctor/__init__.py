"""Whether all that harrier-edge needs is sound on this machine, and how what is not is cured."""
