# Brings the CRM up to date. CRM_IS_UP stands for the other company's uptime.
cat >/dev/null
if [ -z "$CRM_IS_UP" ]; then
    echo "crm-sync: crm.example.com:443: connection refused" >&2
    exit 75
fi
