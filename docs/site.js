// A table that is wider than its column (on a phone, say) is laid out as a list:
// each cell on a line of its own, after the heading of its column.
document.querySelectorAll('main table').forEach(table => {
  const heads = [...table.querySelectorAll('thead tr:last-child > *')]
  table.querySelectorAll('tbody tr').forEach(row => [...row.cells].forEach((cell, i) => {
    cell.dataset.label = heads[i]?.textContent.trim() || ''
  }))
  const fit = () => {
    table.classList.remove('stacked')
    const room = table.parentElement.getBoundingClientRect().width
    table.classList.toggle('stacked', table.getBoundingClientRect().width > room + 1)
  }
  new ResizeObserver(fit).observe(table.parentElement)
})
