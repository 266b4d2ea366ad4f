package setting

// Closest returns the name that was likely meant by another one: the one that becomes it with the fewest letters inserted,
// removed, replaced or swapped, if that is at most a third of its letters. It returns "" if no name is that close.
func Closest(name string, names []string) (closest string) {
	fewest := max(len(name)/3, 1) + 1
	for _, candidate := range names {
		if d := distance(name, candidate); d < fewest {
			closest, fewest = candidate, d
		}
	}
	return closest
}

// distance returns the number of letters to insert, remove, replace or swap with their neighbour to make b of a.
func distance(a, b string) int {
	var before, last []int // the rows of the table above the current one
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
