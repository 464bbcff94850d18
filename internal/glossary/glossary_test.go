// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package glossary

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

const (
	root = "../.."
	page = "docs/glossary.md"
)

// excepted are files and directories that are not checked, and why.
var excepted = map[string]string{
	"cni/removal.go":                    "it has keys of the CNI specification",
	"integration/cni_collect_test.go":   "the same",
	page:                                "lists the words",
	"internal/glossary":                 "tests with them",
	"docs/adr":                          "a decision stays as it was accepted",
	"CHANGELOG.md":                      "says what changed, in the words of then",
	"engine/aliases.go":                 "has the old names, for one release",
	"dist":                              "is made by make",
	"integration/openapi/client.gen.go": "is generated",
	"integration/browser/node_modules":  "is fetched",
	".git":                              "is not of the sources",
}

// words are those of the glossary's last column, each as the words that it consists of.
type words struct {
	everywhere, named [][]string
	alone             map[string]bool
}

// readWords reads the tables of the page.
func readWords(text string) words {
	w := words{alone: map[string]bool{}}
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || strings.Contains(cells[3], "---") || strings.TrimSpace(cells[1]) == "term" {
			continue
		}
		for group := range strings.SplitSeq(cells[3], ";") {
			group, isNamed := strings.CutPrefix(strings.TrimSpace(group), "*named:*")
			group, isAlone := strings.CutPrefix(group, "*alone:*")
			for word := range strings.SplitSeq(group, ",") {
				switch word = strings.TrimSpace(word); {
				case word == "":
				case isAlone:
					w.alone[word] = true
				case isNamed:
					w.named = append(w.named, split(word))
				default:
					w.everywhere = append(w.everywhere, split(word))
				}
			}
		}
	}
	return w
}

// split returns the words of a name in camel case or with underscores, in lower case.
func split(name string) []string {
	var parts []string
	runes := []rune(name)
	start := 0
	for i := range runes {
		last := i == len(runes)-1
		switch {
		case !unicode.IsLetter(runes[i]):
		case !last && !unicode.IsLetter(runes[i+1]),
			!last && unicode.IsLower(runes[i]) && unicode.IsUpper(runes[i+1]),
			i+2 < len(runes) && unicode.IsUpper(runes[i+1]) && unicode.IsLower(runes[i+2]):
		case last:
		default:
			continue
		}
		if part := strings.TrimFunc(string(runes[start:i+1]), func(r rune) bool { return !unicode.IsLetter(r) }); part != "" {
			parts = append(parts, strings.ToLower(part))
		}
		start = i + 1
	}
	return parts
}

// contains reports whether a word of the list, or its plural, is among the parts of a name.
func contains(list [][]string, parts []string) bool {
	for _, word := range list {
		for i := 0; i+len(word) <= len(parts); i++ {
			same := true
			for k, part := range word {
				same = same && (parts[i+k] == part || len(word) == 1 && parts[i+k] == part+"s")
			}
			if same {
				return true
			}
		}
	}
	return false
}

var name = regexp.MustCompile(`[\pL\d_]+`)

// check returns a complaint, with its position, about each old word in a file.
func (w words) check(file string, content []byte) []string {
	var complaints []string
	stem := strings.TrimSuffix(path.Base(file), "_test.go")
	if parts := split(stem); contains(w.everywhere, parts) || contains(w.named, parts) {
		complaints = append(complaints, file+": the file's name")
	}
	number := 0
	for line := range bytes.Lines(content) {
		number++
		for _, match := range name.FindAll(line, -1) {
			if contains(w.everywhere, split(string(match))) {
				complaints = append(complaints, fmt.Sprintf("%s:%d: %s", file, number, match))
			}
		}
	}
	if !strings.HasSuffix(file, ".go") {
		return complaints
	}
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, file, content, parser.SkipObjectResolution)
	if err != nil {
		return append(complaints, err.Error())
	}
	for _, id := range declared(parsed) {
		if w.alone[strings.ToLower(id.Name)] || contains(w.named, split(id.Name)) {
			complaints = append(complaints, fmt.Sprintf("%s: the name %s", files.Position(id.Pos()), id.Name))
		}
	}
	return complaints
}

var testName = regexp.MustCompile(`^(Test|Fuzz|Benchmark|Example)([A-Z_]|$)`)

// declared are the names of a file's types, their fields and methods, and its functions,
// variables and constants.
func declared(file *ast.File) []*ast.Ident {
	var ids []*ast.Ident
	fields := func(n ast.Node) bool {
		var list *ast.FieldList
		switch n := n.(type) {
		case *ast.StructType:
			list = n.Fields
		case *ast.InterfaceType:
			list = n.Methods
		default:
			return true
		}
		for _, field := range list.List {
			ids = append(ids, field.Names...)
		}
		return true
	}
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if !testName.MatchString(decl.Name.Name) {
				ids = append(ids, decl.Name)
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					ids = append(ids, spec.Name)
				case *ast.ValueSpec:
					ids = append(ids, spec.Names...)
				}
			}
		}
		ast.Inspect(decl, fields)
	}
	return ids
}

// The repository has no word that the glossary refuses.
func TestGlossary(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, page))
	require.NoError(t, err)
	w := readWords(string(text))
	require.NotEmpty(t, w.everywhere)
	require.NotEmpty(t, w.named)
	require.NotEmpty(t, w.alone)
	require.NoError(t, fs.WalkDir(os.DirFS(root), ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if excepted[file] != "" || path.Base(path.Dir(file)) == "fuzz" {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(filepath.Join(root, file))
		if err != nil || bytes.IndexByte(content, 0) >= 0 {
			return err // a program, or another file that is not text
		}
		for _, complaint := range w.check(file, content) {
			t.Errorf("%s: see %s", complaint, page)
		}
		return nil
	}))
}

func TestSplit(t *testing.T) {
	for text, want := range map[string][]string{
		"place": {"place"}, "putRight": {"put", "right"}, "HTTPServer": {"http", "server"}, "deed_test": {"deed", "test"},
		"tcp4Host": {"tcp", "host"}, "readUDP": {"read", "udp"}, "A": {"a"}, "4": nil, "x2y": {"x", "y"}, "DEED": {"deed"},
	} {
		require.Equal(t, want, split(text), text)
	}
}

func TestCheck(t *testing.T) {
	w := readWords("| term | means | not |\n|---|---|---|\n| a | b | deed, putRight; *named:* place; *alone:* own |\n| c | d | |\n")
	const source = `package p

// A deed, and deeds; what is put right at its own place.
type inPlace struct {
	own  int // "indeed"
	mine int
}

const place = "deed"

func TestPlace() { place := 1; _, _ = place, takeDeed }

func (own inPlace) putRights() {}

func (inPlace) putRight() {}

func owner() {}
`
	require.Equal(t, []string{
		"p/my_deeds_test.go: the file's name",
		"p/my_deeds_test.go:3: deed", "p/my_deeds_test.go:3: deeds",
		"p/my_deeds_test.go:9: deed", "p/my_deeds_test.go:11: takeDeed", "p/my_deeds_test.go:15: putRight",
		"p/my_deeds_test.go:4:6: the name inPlace", "p/my_deeds_test.go:5:2: the name own", "p/my_deeds_test.go:9:7: the name place",
	}, w.check("p/my_deeds_test.go", []byte(source)))
	require.Empty(t, w.check("p/place.md", []byte("A place of its own, put right.\n"))[1:])
	require.Empty(t, w.check("p/own.md", []byte("Indeed.\n")))
}
