// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every exported integer type with constants has a String method.
func TestEnumsAreStringers(t *testing.T) {
	integers := map[string]bool{
		"int": true, "int8": true, "int16": true, "int32": true, "int64": true, "byte": true, "rune": true,
		"uint": true, "uint8": true, "uint16": true, "uint32": true, "uint64": true, "uintptr": true,
	}
	found := 0
	require.NoError(t, filepath.WalkDir("..", func(dir string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
			return err
		case d.Name() == "testdata" || dir != ".." && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		}
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		types, constants, stringers := map[string]bool{}, map[string]bool{}, map[string]bool{}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			for _, decl := range file.Decls {
				switch decl := decl.(type) {
				case *ast.FuncDecl:
					if decl.Recv != nil && decl.Name.Name == "String" {
						stringers[nameOf(decl.Recv.List[0].Type)] = true
					}
				case *ast.GenDecl:
					for _, spec := range decl.Specs {
						switch spec := spec.(type) {
						case *ast.TypeSpec:
							types[spec.Name.Name] = integers[nameOf(spec.Type)] && !spec.Assign.IsValid()
						case *ast.ValueSpec:
							if decl.Tok == token.CONST && spec.Type != nil && spec.Names[0].IsExported() {
								constants[nameOf(spec.Type)] = true
							}
						}
					}
				}
			}
		}
		for name := range constants {
			if types[name] && ast.IsExported(name) {
				found++
				require.True(t, stringers[name], "%s: %s has constants and no String", dir, name)
			}
		}
		return nil
	}))
	require.Greater(t, found, 10)
}

// nameOf returns the name of a type or of the type that a pointer points to, or "".
func nameOf(e ast.Expr) string {
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	if id, ok := e.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}
