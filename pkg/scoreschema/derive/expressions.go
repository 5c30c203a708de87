package derive

import "fleet.nationtech.io/fleet/pkg/scoreschema"

// expression is what a text with an expression of package template has.
const expression = `|\$\{device\.`

// takeExpressions lets the texts of a field have expressions in the place of what its patterns
// ask for.
func takeExpressions(s *scoreschema.Schema) {
	if s.Pattern != "" {
		s.Pattern += expression
	}
	for i := range s.AllOf {
		s.AllOf[i].Pattern += expression
	}
	if s.Items != nil {
		takeExpressions(s.Items)
	}
	if values, is := s.AdditionalProperties.(*scoreschema.Schema); is {
		takeExpressions(values)
	}
}
