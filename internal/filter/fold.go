package filter

import (
	"unicode"
	"unicode/utf8"
)

// Fold returns s with every character replaced by the first of those that
// equal it under simple Unicode case folding: two strings are equal but for
// case exactly if their folds are equal.
func Fold(s string) string { return string(AppendFold(nil, s)) }

// AppendFold appends Fold(s).
func AppendFold(dst []byte, s string) []byte {
	for _, r := range s {
		dst = utf8.AppendRune(dst, foldRune(r))
	}
	return dst
}

func foldRune(r rune) rune {
	if r < utf8.RuneSelf {
		if 'a' <= r && r <= 'z' {
			return r - 'a' + 'A'
		}
		return r
	}
	least := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		least = min(least, next)
	}
	return least
}

// hasPrefixFold reports whether s begins with prefix, which is folded already.
func hasPrefixFold(s, prefix string) bool {
	for len(prefix) > 0 {
		p, n := utf8.DecodeRuneInString(prefix)
		r, m := utf8.DecodeRuneInString(s)
		if m == 0 || foldRune(r) != p {
			return false
		}
		prefix, s = prefix[n:], s[m:]
	}
	return true
}

// hasSuffixFold reports whether s ends with suffix, which is folded already.
func hasSuffixFold(s, suffix string) bool {
	for len(suffix) > 0 {
		p, n := utf8.DecodeLastRuneInString(suffix)
		r, m := utf8.DecodeLastRuneInString(s)
		if m == 0 || foldRune(r) != p {
			return false
		}
		suffix, s = suffix[:len(suffix)-n], s[:len(s)-m]
	}
	return true
}
