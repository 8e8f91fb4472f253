package routetest

import (
	"slices"
	"strings"
)

// MemberCase is the baggage of a request, and the value of the member "dynamic_route" in it (R3).
type MemberCase struct {
	Name  string
	Lines []string
	Want  string
	None  bool // there is no such member
}

// MemberCases are in the order of their names.
func MemberCases() (all []MemberCase) {
	const key = "dynamic_route"
	filler := func(n int) string { return "k=" + strings.Repeat("v", n-len("k=")) }
	own := key + "=x"
	for name, tt := range map[string]struct {
		lines []string
		want  string
		none  bool
	}{
		"none":                         {lines: nil, none: true},
		"empty line":                   {lines: []string{""}, none: true},
		"alone":                        {lines: []string{"dynamic_route=feature-1"}, want: "feature-1"},
		"first":                        {lines: []string{"dynamic_route=feature-1,a=b"}, want: "feature-1"},
		"last":                         {lines: []string{"a=b,dynamic_route=feature-1"}, want: "feature-1"},
		"white space":                  {lines: []string{" \ta=b \t, \tdynamic_route \t= \tfeature-1 \t, c=d"}, want: "feature-1"},
		"white space and property":     {lines: []string{"dynamic_route \t = \t x \t ; \t p"}, want: "x"},
		"several lines":                {lines: []string{"a=b", "dynamic_route=x", "c=d"}, want: "x"},
		"empty line before":            {lines: []string{"", "dynamic_route=x"}, want: "x"},
		"empty members":                {lines: []string{",, ,dynamic_route=x,,"}, want: "x"},
		"last of two":                  {lines: []string{"dynamic_route=x,dynamic_route=y"}, want: "y"},
		"last of two lines":            {lines: []string{"dynamic_route=x", "dynamic_route=y"}, want: "y"},
		"last is malformed":            {lines: []string{"dynamic_route=x,dynamic_route=a b"}, want: "x"},
		"last is empty":                {lines: []string{"dynamic_route=x,dynamic_route="}, want: ""},
		"empty value":                  {lines: []string{"dynamic_route="}, want: ""},
		"equals in value":              {lines: []string{"dynamic_route=a=b"}, want: "a=b"},
		"stays encoded":                {lines: []string{"dynamic_route=cart%40pr-88"}, want: "cart%40pr-88"},
		"property":                     {lines: []string{"dynamic_route=x;p=1;q"}, want: "x"},
		"empty property":               {lines: []string{"dynamic_route=x;; ;"}, want: "x"},
		"property value with an equal": {lines: []string{"dynamic_route=x;p=a=b"}, want: "x"},
		"malformed neighbour":          {lines: []string{"a,=b,\\=c,é=1,dynamic_route=x,d=\""}, want: "x"},
		"key in another case":          {lines: []string{"Dynamic_Route=x"}, none: true},
		"longer key":                   {lines: []string{"dynamic_route2=x"}, none: true},
		"shorter key":                  {lines: []string{"dynamic=x"}, none: true},
		"encoded key":                  {lines: []string{"dynamic%5Froute=x"}, none: true},
		"key as a value":               {lines: []string{"a=dynamic_route=x"}, none: true},
		"key as a property":            {lines: []string{"a=b;dynamic_route=x"}, none: true},
		"no equals sign":               {lines: []string{"dynamic_route"}, none: true},
		"semicolon before equals":      {lines: []string{"dynamic_route;p=x"}, none: true},
		"space in value":               {lines: []string{"dynamic_route=a b"}, none: true},
		"quoted":                       {lines: []string{`dynamic_route="x"`}, none: true},
		"backslash":                    {lines: []string{`dynamic_route=a\b`}, none: true},
		"not ASCII":                    {lines: []string{"dynamic_route=é"}, none: true},
		"control byte":                 {lines: []string{"dynamic_route=a\x00"}, none: true},
		"truncated escape":             {lines: []string{"dynamic_route=a%4"}, none: true},
		"bad escape":                   {lines: []string{"dynamic_route=a%zz"}, none: true},
		"malformed property":           {lines: []string{"dynamic_route=x;a b"}, none: true},
		"property without a key":       {lines: []string{"dynamic_route=x;=1"}, none: true},
		"property with a bad value":    {lines: []string{"dynamic_route=x;p=%"}, none: true},
		"ends at the limit":            {lines: []string{filler(8192-len(own)-1) + "," + own}, want: "x"},
		"ends behind the limit":        {lines: []string{filler(8192-len(own)) + "," + own}, none: true},
		"cut is no shorter value":      {lines: []string{filler(8192-len(own)-1) + "," + own + "y"}, none: true},
		"limit over two lines":         {lines: []string{filler(8192 - len(own) - 1), own}, want: "x"},
		"behind it over two lines":     {lines: []string{filler(8192 - len(own)), own}, none: true},
		"empty lines count":            {lines: []string{"", filler(8192 - len(own) - 1), own}, none: true},
		"first one counts":             {lines: []string{own + "," + filler(9000)}, want: "x"},
		"nothing behind the limit":     {lines: []string{filler(9000), own}, none: true},
		"very many members":            {lines: []string{strings.Repeat("a=b,", 1000) + own}, want: "x"},
	} {
		all = append(all, MemberCase{name, tt.lines, tt.want, tt.none})
	}
	slices.SortFunc(all, func(a, b MemberCase) int { return strings.Compare(a.Name, b.Name) })
	return all
}
