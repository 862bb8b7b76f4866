// Reads a JSON list of PromQL expressions from standard input and prints, for each, what Prometheus' own editor complains
// about, the metrics that it selects with the labels that these are matched by, and the labels that it groups by.
'use strict';

const { EditorState } = require('@codemirror/state');
const { parser } = require('@prometheus-io/lezer-promql');
const { Parser } = require('@prometheus-io/codemirror-promql/dist/cjs/parser');

function check(expr) {
  const tree = parser.parse(expr);
  const types = new Parser(EditorState.create({ doc: expr }));
  // An editor parses for some milliseconds at a time; here it is done to the end.
  types.tree = tree;
  types.analyze();
  const complaints = types.getDiagnostics().map((diagnostic) => diagnostic.message);
  const selectors = [];
  const groupings = [];
  const text = (node) => expr.slice(node.from, node.to);
  tree.iterate({
    enter: (node) => {
      if (node.type.isError) complaints.push(`it does not parse at ${node.from}`);
      if (node.name === 'VectorSelector') selectors.push({ metric: '', labels: [] });
      // Labels that a match of two sides leaves out are those that one of them does not have.
      if (node.name === 'GroupingLabels') {
        if (node.node.parent.getChild('Ignoring')) return false;
        groupings.push([]);
      }
      if (node.name === 'Identifier' && selectors.length > 0) selectors.at(-1).metric = text(node);
      if (node.name === 'LabelName') {
        const list = node.node.parent.name === 'GroupingLabels' ? groupings.at(-1) : selectors.at(-1).labels;
        list.push(text(node));
      }
    },
  });
  return { complaints, selectors, groupings };
}

const expressions = JSON.parse(require('fs').readFileSync(0, 'utf8'));
console.log(JSON.stringify(expressions.map(check)));
