"""What every pobox process needs: errors, config, model, slots, wire, supervisor, cli."""
