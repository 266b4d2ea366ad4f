package client

import "iter"

// pages yields the items of a paged list. Fetch returns the page of a token, which is empty for the first one, and the
// token of the next page, which is empty after the last one. An error is yielded once and ends the walk.
func pages[T any](fetch func(token string) (page []T, next string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for token := ""; ; {
			page, next, err := fetch(token)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			token = next
		}
	}
}
