"""What a robot embeds: numpy and one engine library."""
