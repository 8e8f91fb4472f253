package http1

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// decode reads a body in pieces of at most size bytes.
func decode(text string, size int) (data string, rest string, done bool, err error) {
	var c Chunked
	var out strings.Builder
	for at := 0; at < len(text) && !c.Done(); {
		piece := []byte(text[at:min(at+size, len(text))])
		for len(piece) > 0 && !c.Done() {
			n, d, err := c.Next(piece)
			out.Write(d)
			at += n
			if err != nil {
				return out.String(), text[at:], false, err
			}
			piece = piece[n:]
		}
		rest = text[at:]
	}
	return out.String(), rest, c.Done(), nil
}

func TestChunked(t *testing.T) {
	for name, test := range map[string]struct{ text, data, rest string }{
		"one":            {"5\r\nhello\r\n0\r\n\r\n", "hello", ""},
		"more behind it": {"5\r\nhello\r\n0\r\n\r\nGET", "hello", "GET"},
		"hex":            {"0A\r\n0123456789\r\n1\r\nx\r\n000\r\n\r\n", "0123456789x", ""},
		"extension":      {"5;a=b;c=\"d e\"\r\nhello\r\n0;x\r\n\r\n", "hello", ""},
		"trailers":       {"5\r\nhello\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", "hello", ""},
		"empty":          {"0\r\n\r\n", "", ""},
		"CRLF in data":   {"4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 2, 3, 7, 1000} {
				data, rest, done, err := decode(test.text, size)
				require.NoError(t, err)
				require.True(t, done)
				require.Equal(t, test.data, data)
				require.Equal(t, test.rest, rest)
			}
		})
	}
}

func TestChunked_Refuses(t *testing.T) {
	for name, text := range map[string]string{
		"no size":               "\r\nhello\r\n0\r\n\r\n",
		"0x5":                   "0x5\r\nhello\r\n0\r\n\r\n",
		"space behind":          "5 \r\nhello\r\n0\r\n\r\n",
		"space before":          " 5\r\nhello\r\n0\r\n\r\n",
		"minus":                 "-5\r\nhello\r\n0\r\n\r\n",
		"too many digits":       "00000000000000005\r\nhello\r\n0\r\n\r\n",
		"overflow":              "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
		"bare LF behind size":   "5\nhello\r\n0\r\n\r\n",
		"bare CR behind size":   "5\rhello\r\n0\r\n\r\n",
		"data too long":         "5\r\nhello!\r\n0\r\n\r\n",
		"bare LF behind data":   "5\r\nhello\n0\r\n\r\n",
		"bare LF in extension":  "5;a\nb\r\nhello\r\n0\r\n\r\n",
		"CR in extension":       "5;a\rb\r\nhello\r\n0\r\n\r\n",
		"NUL in extension":      "5;a\x00\r\nhello\r\n0\r\n\r\n",
		"long extension":        "5;" + strings.Repeat("a", 300) + "\r\nhello\r\n0\r\n\r\n",
		"many extensions":       strings.Repeat("1;"+strings.Repeat("a", 250)+"\r\nx\r\n", 70) + "0\r\n\r\n",
		"bare LF at the end":    "0\r\n\n",
		"bare LF in a trailer":  "0\r\nX: 1\n\r\n",
		"folded trailer":        "0\r\nX: 1\r\n 2\r\n\r\n",
		"trailer without colon": "0\r\nX\r\n\r\n",
		"large trailers":        "0\r\nX: " + strings.Repeat("a", 20<<10) + "\r\n\r\n",
		"many trailers":         "0\r\n" + strings.Repeat("X: 1\r\n", 65) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 5, 1 << 20} {
				_, _, done, err := decode(text, size)
				_, ok := errors.AsType[*Error](err)
				require.True(t, ok, "%v", err)
				require.False(t, done)
			}
		})
	}
}

func TestChunked_Trailers(t *testing.T) {
	text := "1\r\nx\r\n0\r\nX-Sum: 1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: a\r\nLayover-Served-By: x\r\nSet-Cookie: a=b\r\nY:\r\n\r\nGET"
	for _, size := range []int{1, 5, 1000} {
		var c Chunked
		var before strings.Builder
		rest := text
		for !c.Done() {
			piece := rest[:min(size, len(rest))]
			trailing := c.InTrailers()
			n, _, err := c.Next([]byte(piece))
			require.NoError(t, err)
			if !trailing {
				before.WriteString(piece[:n])
			}
			rest = rest[n:]
		}
		require.Equal(t, "1\r\nx\r\n0\r\n", before.String())
		require.Equal(t, "X-Sum: 1\r\nY:\r\n\r\n", string(c.Trailers()))
		require.Equal(t, "GET", rest)
	}
}
