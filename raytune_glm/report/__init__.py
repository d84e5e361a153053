"""What a sweep leaves for people and programs: leaderboard, summary, the winner, and where it came from."""
