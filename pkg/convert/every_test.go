package convert_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"fleet.nationtech.io/fleet/pkg/convert"
)

// checked is all of a translation as text. Its Deployments have to be valid.
func checked(t *testing.T, r *convert.Result) string {
	t.Helper()
	for _, d := range r.Deployments {
		if err := convert.Check(&d.Score); err != nil {
			t.Errorf("it is not valid: %v", err)
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// changes yields a copy of a value for each leaf of its type, in which that leaf alone differs.
// make returns a fresh value, tag is yaml or json.
func changes(fresh func() reflect.Value, tag string, yield func(path string, changed reflect.Value)) {
	var walk func(t reflect.Type, path string, get func(root reflect.Value) reflect.Value, depth int)
	walk = func(t reflect.Type, path string, get func(reflect.Value) reflect.Value, depth int) {
		change := func(set func(reflect.Value)) {
			root := fresh()
			set(get(root))
			yield(path, root)
		}
		if depth > 9 || t == reflect.TypeFor[metav1.ManagedFieldsEntry]() { // which servers write
			return
		}
		switch t.Kind() {
		case reflect.Pointer:
			walk(t.Elem(), path, func(r reflect.Value) reflect.Value {
				v := get(r)
				if v.IsNil() {
					v.Set(reflect.New(t.Elem()))
				}
				return v.Elem()
			}, depth+1)
		case reflect.Struct:
			if opaque(t) {
				change(odd)
				return
			}
			for f := range t.Fields() {
				name, _, _ := strings.Cut(f.Tag.Get(tag), ",")
				at := path + "." + name
				if f.Anonymous || name == "" {
					at = path
				}
				if strings.HasPrefix(name, "#") || name == "-" {
					at = path + "." + f.Name
				}
				walk(f.Type, at, func(r reflect.Value) reflect.Value { return get(r).FieldByIndex(f.Index) }, depth+1)
			}
		case reflect.Slice:
			if e := t.Elem(); e.Kind() == reflect.Struct || e.Kind() == reflect.Pointer {
				walk(e, path, func(r reflect.Value) reflect.Value {
					v := get(r)
					if v.Len() == 0 {
						v.Set(reflect.Append(v, reflect.New(e).Elem()))
					}
					return v.Index(0)
				}, depth+1)
				return
			}
			change(func(v reflect.Value) {
				e := reflect.New(t.Elem()).Elem()
				odd(e)
				v.Set(reflect.Append(v, e))
			})
		case reflect.Map:
			if e := t.Elem(); e.Kind() == reflect.Pointer && e.Elem().Kind() == reflect.Struct {
				walk(e, path, func(r reflect.Value) reflect.Value {
					v := get(r)
					if v.IsNil() {
						v.Set(reflect.MakeMap(t))
					}
					for _, key := range v.MapKeys() {
						if inner := v.MapIndex(key); !inner.IsNil() {
							return inner
						}
					}
					inner := reflect.New(e.Elem())
					v.SetMapIndex(reflect.ValueOf("zzz").Convert(t.Key()), inner)
					return v.MapIndex(reflect.ValueOf("zzz").Convert(t.Key()))
				}, depth+1)
				return
			}
			if t.Elem().Kind() == reflect.Struct && !opaque(t.Elem()) {
				changes(func() reflect.Value { return reflect.New(t.Elem()).Elem() }, tag, func(below string, e reflect.Value) {
					root := fresh()
					m := get(root)
					m.Set(reflect.MakeMap(t))
					m.SetMapIndex(reflect.ValueOf("zzz").Convert(t.Key()), e)
					yield(path+below, root)
				})
				return
			}
			change(func(v reflect.Value) {
				if v.IsNil() {
					v.Set(reflect.MakeMap(t))
				}
				e := reflect.New(t.Elem()).Elem()
				odd(e)
				v.SetMapIndex(reflect.ValueOf("zzz").Convert(t.Key()), e)
			})
		default:
			change(odd)
		}
	}
	walk(fresh().Type(), "", func(r reflect.Value) reflect.Value { return r }, 0)
}

func opaque(t reflect.Type) bool {
	if t == reflect.TypeFor[intstr.IntOrString]() {
		return true
	}
	for f := range t.Fields() {
		if !f.IsExported() {
			return true
		}
	}
	return false
}

// odd sets a value to something that it did not have.
func odd(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "7zz")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(v.Int() + 7<<20)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(v.Uint() + 77)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(v.Float() + 0.7)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		odd(v.Index(0))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		odd(v.Elem())
	case reflect.Interface:
		v.Set(reflect.ValueOf("7zz"))
	case reflect.Struct:
		text := `"7"`
		if v.Type() == reflect.TypeFor[time.Time]() {
			text = `"2007-07-07T07:07:07Z"`
		}
		if err := json.Unmarshal([]byte(text), v.Addr().Interface()); err != nil {
			panic(fmt.Sprintf("%s: %v", v.Type(), err))
		}
	default:
		panic(fmt.Sprintf("no odd value of %s", v.Type()))
	}
}
